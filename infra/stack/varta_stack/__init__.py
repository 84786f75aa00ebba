"""Starts the real servers that Varta talks to, natively, without containers.

It knows how to fetch, build, configure, start, probe, stop and crash Kafka, a
schema registry, Mosquitto, PostgreSQL and InfluxDB. It never knows what the
pipeline does with them: topics, schemas and tables are made by `varta` itself.

Invariants:
* what is in the cache is complete, or it is not there (`cache.py`);
* a process is signalled only if it is provably the one that we started
  (`processes.py`);
* ready means that the server answered in its own protocol (`probes.py`); there
  is no sleep that hopes;
* ports and secrets belong to a folder and stay the same for its whole life, so
  that a restart is invisible to clients (`ports.py`, `credentials.py`).
"""
