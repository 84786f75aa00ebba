SELECT
  clean(host) AS host,
  clean("user") AS "user",
  lower(clean(bus)) AS bus,
  clean(vendor) AS vendor,
  clean(product) AS product,
  lower(clean(kind)) AS kind,
  CAST(event_time AS BIGINT) > CAST(received_at AS BIGINT) + 300000000 AS flag_future_time,
  CAST(event_time AS BIGINT) < 946684800000000 AS flag_implausible_time,
  clean(bus) IS NULL AND clean(vendor) IS NULL AND clean(product) IS NULL AND clean(kind) IS NULL
    AND extra IS NULL AS drop_empty_device
FROM events
