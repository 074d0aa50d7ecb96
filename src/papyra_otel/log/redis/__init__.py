"""The log in Redis or Valkey: one stream per system and kind, which any number of hosts append to.

``keys`` names things, ``address`` reads the URL, ``wire`` is every connection, ``scripts`` what the server does
atomically, ``fence`` how far each writer came, ``appending`` what is written, ``pages`` and ``source`` what is read,
``groups`` who shares reading, ``compact`` what is removed, ``redislog`` the whole.
"""

from papyra_otel.log.redis.deliveries import Delivery, Pending, Unseen
from papyra_otel.log.redis.redislog import RedisLog, open_redis_log

__all__ = ["Delivery", "Pending", "RedisLog", "Unseen", "open_redis_log"]
