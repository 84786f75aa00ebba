-- The period in steps of $6; a step in which nothing was seen is there with nulls.
, steps as (
    select at from generate_series(
        date_trunc($6, $1 at time zone $5), ($2 at time zone $5) - interval '1 microsecond', ('1 ' || $6)::interval) at
),
activity as (
    select date_trunc($6, window_start at time zone $5) as at, sum(active_s) as active_s from activity_hours group by 1
),
machines as (
    select date_trunc($6, window_start at time zone $5) as at, avg(cpu_mean) as cpu_mean, max(cpu_max) as cpu_max,
        avg(mem_used_mean_bytes) as mem_used_mean_bytes, avg(coverage) as coverage, count(*) as hours
    from machine_hours group by 1
),
found as (
    select date_trunc($6, event_time at time zone $5) as at, count(*) as alerts from alert_rows group by 1
),
started as (
    select date_trunc($6, "timestamp" at time zone $5) as at, count(*) as starts from program_rows group by 1
)
select coalesce(jsonb_agg(jsonb_build_object(
    'at', to_char(at, 'YYYY-MM-DD HH24:MI'), 'active_s', active_s, 'cpu_mean', cpu_mean, 'cpu_max', cpu_max,
    'mem_used_mean_bytes', mem_used_mean_bytes, 'coverage', coverage, 'hours', coalesce(hours, 0),
    'starts', coalesce(starts, 0), 'alerts', coalesce(alerts, 0)) order by at), '[]')
from steps left join activity using (at) left join machines using (at) left join found using (at)
    left join started using (at)
