-- How much of the period was seen. Known are the machines that were heard in the period or the four weeks before.
-- What share of all hours of a user was seen cannot be told: nobody knows when he should have been there.
, known as (
    select agent_id, max(host) as host, bool_or(window_start >= $1) as seen
    from features_1h
    where window_start >= $1 - interval '28 days' and window_start < $2
      and ($3 = 'fleet' or $3 = 'agent' and agent_id = $4)
    group by agent_id
)
select jsonb_build_object(
    'agents_known', case when $3 <> 'user' then (select count(*) from known) end,
    'agents_seen', count(distinct agent_id),
    'silent', (
        select coalesce(jsonb_agg(one order by agent_id), '[]')
        from (select agent_id, host from known where not seen order by agent_id limit 20) one
    ),
    'hours_expected', case when $3 <> 'user' then
        (select count(*) from known) * extract(epoch from $2 - $1)::bigint / 3600 end,
    'hours_seen', count(*),
    'partial_hours', count(*) filter (where is_partial),
    'coverage_mean', avg(coverage),
    'share', case when $3 <> 'user' then
        sum(coalesce(coverage, 1))
            / nullif((select count(*) from known) * extract(epoch from $2 - $1)::float8 / 3600, 0) end,
    'events', sum(events),
    'late', sum(late),
    'lost', sum(lost)
)
from machine_hours
