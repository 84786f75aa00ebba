-- The long-term pattern by weekday (1 is Monday) and hour, over the weeks from $1 to before $2.
, activity as (
    select extract(isodow from window_start at time zone $5)::int as weekday,
        extract(hour from window_start at time zone $5)::int as hour,
        count(*) filter (where active_s is not null) as hours, sum(active_s) as active_s
    from activity_hours group by 1, 2
),
machines as (
    select extract(isodow from window_start at time zone $5)::int as weekday,
        extract(hour from window_start at time zone $5)::int as hour,
        count(*) as hours, avg(cpu_mean) as cpu_mean
    from machine_hours group by 1, 2
)
select coalesce(jsonb_agg(jsonb_build_object(
    'weekday', weekday, 'hour', hour,
    'hours', coalesce(machines.hours, activity.hours),
    'active_share', active_s / nullif(3600 * activity.hours, 0),
    'cpu_mean', cpu_mean) order by weekday, hour), '[]')
from activity full join machines using (weekday, hour)
