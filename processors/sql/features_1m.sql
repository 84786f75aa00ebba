-- One row per agent and minute of event time; the engine adds window_end, revision and is_partial.
SELECT
    agent_id,
    max(host) AS host,
    window_start,
    count(*) AS samples,
    count(cpu_percent) AS cpu_samples,
    avg(cpu_percent) AS cpu_mean,
    min(cpu_percent) AS cpu_min,
    max(cpu_percent) AS cpu_max,
    avg(mem_used_bytes) AS mem_used_mean_bytes,
    max(mem_used_bytes) AS mem_used_max_bytes
FROM events
GROUP BY agent_id, window_start
