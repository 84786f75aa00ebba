SELECT
  clean(host) AS host,
  clean("user") AS "user",
  CAST(event_time AS BIGINT) > CAST(received_at AS BIGINT) + 300000000 AS flag_future_time,
  CAST(event_time AS BIGINT) < 946684800000000 AS flag_implausible_time,
  mouse_events < 0 OR keyboard_events < 0 AS flag_negative_count,
  active_s < 0.0 OR idle_s < 0.0 AS flag_negative_duration,
  mouse IS NULL AND keyboard IS NULL AND mouse_events IS NULL AND keyboard_events IS NULL
    AND active_s IS NULL AND idle_s IS NULL AND extra IS NULL AS drop_empty_activity
FROM events
