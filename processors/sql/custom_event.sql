-- What the event means is not known here, so nothing else is judged.
SELECT
  clean(host) AS host,
  clean("user") AS "user",
  CAST(event_time AS BIGINT) > CAST(received_at AS BIGINT) + 300000000 AS flag_future_time,
  CAST(event_time AS BIGINT) < 946684800000000 AS flag_implausible_time
FROM events
