-- Reports that are missing, or older than what they are made of, of periods that began not before $1 and ended not
-- after $2. What they are made of: hours, alerts and what people said of these, of the period and, for the trend, of the
-- week before. $3 is the zone; $4 the seconds by which a report must be younger than its newest row, for rows become
-- visible only when their transaction ends and bear the time of its beginning; $5 the kinds. A day has a report of its
-- own if it was seen for $6 hours or has an alert. Weeks begin on Mondays. At most $7 rows.
with changed as (
    select 'agent' as scope, agent_id as key, (window_start at time zone $3)::date as day, max(changed_at) as at,
        count(*) as weight
    from features_1h where window_start >= $1 and window_start < $2 group by 2, 3
    union all
    select 'user', username, (window_start at time zone $3)::date, max(changed_at), count(distinct window_start)
    from user_features_1h where window_start >= $1 and window_start < $2 group by 2, 3
    union all
    select 'agent', agent_id, (event_time at time zone $3)::date, max(stored_at), $6
    from alerts where event_time >= $1 and event_time < $2 group by 2, 3
    union all
    select 'user', username, (event_time at time zone $3)::date, max(stored_at), $6
    from alerts where event_time >= $1 and event_time < $2 and username is not null group by 2, 3
    union all
    select 'agent', agent_id, (event_time at time zone $3)::date, max(f.stored_at), $6
    from alert_feedback f join alerts on finding_uid = f.alert_id
    where event_time >= $1 and event_time < $2 group by 2, 3
    union all
    select 'user', username, (event_time at time zone $3)::date, max(f.stored_at), $6
    from alert_feedback f join alerts on finding_uid = f.alert_id
    where event_time >= $1 and event_time < $2 and username is not null group by 2, 3
),
days as (
    select scope, key, day, max(at) as at, sum(weight) as weight from changed group by scope, key, day
    union all
    select 'fleet', '', day, max(at), sum(weight) from changed group by day
),
subjects as (
    select d.scope, d.key, d.day, greatest(d.at, before.at) as at, d.weight
    from days d left join days before
        on before.scope = d.scope and before.key = d.key and before.day = d.day - 7
),
periods as (
    select 'day' as kind, day as period_start, day + 1 as period_end, scope, key, at
    from subjects where weight >= $6
    union all
    select 'week', date_trunc('week', day)::date, date_trunc('week', day)::date + 7, scope, key, max(at)
    from subjects group by date_trunc('week', day)::date, scope, key
)
select p.kind, p.period_start, p.scope, p.key
from periods p left join reports r
    on r.kind = p.kind and r.period_start = p.period_start and r.scope = p.scope and r.key = p.key
where p.kind = any($5)
  and p.period_start::timestamp at time zone $3 >= $1
  and p.period_end::timestamp at time zone $3 <= $2
  and (r.computed_at is null or r.zone <> $3 or r.computed_at < p.at + make_interval(secs => $4))
order by p.period_start, p.kind, p.scope, p.key
limit $7
