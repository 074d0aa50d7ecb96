"""The attacks, in the order of the table: one name each, and what its row says was done."""

from __future__ import annotations

ATTACKS = {
    "disk_full": "the disk fills up (`RLIMIT_FSIZE`) while 200 actors are spawned and asked: asks answered",
    "unwritable": "the folder cannot be made: of 20 asks answered",
    "odd_payload": "a message that contains itself becomes a dead letter: of 20 later asks answered",
    "shutdown_one": "1 actor, orderly shutdown: stops stored",
    "shutdown_many": "50 actors, orderly shutdown: stops stored",
    "left_in_mailbox": "5 messages left in a mailbox at shutdown: dead letters stored",
    "late_letters": "5 messages sent after shutdown: dead letters stored",
    "os_exit": "`os._exit` after 1,000 actors started and answered: starts stored",
    "sigkill": "`SIGKILL` at the same moment: starts stored",
    "flips_altered": "one random bit flipped, 1,000 times: read back altered, and the scan notices nothing",
    "flips_gone": "the same: a record gone, and the scan notices nothing",
    "flips_crash": "the same: the scan raises",
    "flips_noticed": "the same: the scan reports it",
    "flips_repaired": "the same: every record as it was after repair",
    "cuts_unnoticed": "truncation at each byte: cuts that the scan does not notice",
    "cuts_crash": "the same: cuts at which reading raises",
    "cuts_lost": "the same: whole records before the cut that reading or repair loses",
    "torn_append": "a torn tail, then one more append: the acknowledged record, read back",
    "torn_repair": "the same after repair",
    "compact_beside": "compaction again and again while another process writes 2,000: readable of acknowledged",
    "recover_beside": "recovery of a damaged log while another process writes: acknowledged records lost",
    "rotate_together": "three processes write 300 each and rotate: kept of 900",
    "rotate_limit": "1,000 records with segments of at most 10,000 bytes: the largest file, in bytes",
    "retention_kinds": "10 dead letters, then 1,000 events, at most 100 kept: dead letters readable",
    "retention_age": "`max_age` of an hour, 10 facts recorded by a running system just now: readable",
    "retention_compact": "the same after compaction",
    "append": "append one record at a time: records per second, as a ratio",
    "last_ten": "the newest 10 dead letters of 5,000 records: time, as a ratio",
}
