-- cpu_percent is of all processors together, so it may reach 100; a source that adds up processors may reach
-- 100 for each. A reading without any value says nothing and is dropped.
SELECT
  clean(host) AS host,
  clean("user") AS "user",
  clean(disk) AS disk,
  clean(net_interface) AS net_interface,
  clean(sensor) AS sensor,
  clean(sensor_unit) AS sensor_unit,
  CAST(event_time AS BIGINT) > CAST(received_at AS BIGINT) + 300000000 AS flag_future_time,
  CAST(event_time AS BIGINT) < 946684800000000 AS flag_implausible_time,
  cpu_percent < 0.0 OR cpu_percent > 100.0 * greatest(coalesce(cpu_count, 1), 1) AS flag_cpu_out_of_range,
  cpu_count < 1 OR load_1 < 0.0 OR load_5 < 0.0 OR load_15 < 0.0 AS flag_load_out_of_range,
  mem_used_bytes < 0 OR mem_total_bytes < 0 OR swap_used_bytes < 0 OR swap_total_bytes < 0
    OR disk_used_bytes < 0 OR disk_total_bytes < 0 AS flag_negative_size,
  mem_used_bytes > mem_total_bytes OR swap_used_bytes > swap_total_bytes
    OR disk_used_bytes > disk_total_bytes AS flag_used_over_total,
  disk_read_bytes_per_s < 0.0 OR disk_write_bytes_per_s < 0.0
    OR net_rx_bytes_per_s < 0.0 OR net_tx_bytes_per_s < 0.0 AS flag_negative_rate,
  interval_s < 0.0 OR samples < 0 AS flag_negative_interval,
  cpu_percent IS NULL AND load_1 IS NULL AND load_5 IS NULL AND load_15 IS NULL
    AND mem_used_bytes IS NULL AND mem_total_bytes IS NULL AND swap_used_bytes IS NULL AND swap_total_bytes IS NULL
    AND disk_used_bytes IS NULL AND disk_total_bytes IS NULL
    AND disk_read_bytes_per_s IS NULL AND disk_write_bytes_per_s IS NULL
    AND net_rx_bytes_per_s IS NULL AND net_tx_bytes_per_s IS NULL AND net_up IS NULL
    AND sensor_value IS NULL AND threshold IS NULL AND extra IS NULL AS drop_empty_reading
FROM events
