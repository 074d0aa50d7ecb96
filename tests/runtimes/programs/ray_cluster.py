"""A small cluster, until standard input ends. Prints its address."""

import sys

import ray

ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
sys.stdout.write(f"{ray.get_runtime_context().gcs_address}\n")
sys.stdout.flush()
sys.stdin.read()
ray.shutdown()
