-- Folds what each agent said in this batch, newest first, then takes over what is newer than what is known.
-- A last will is sent by the broker and belongs to no session (0).
insert into agents as t
select
    agent_id,
    max(seen_at),
    (array_agg(session order by seen_at desc) filter (where session > 0))[1],
    (array_agg(status order by seen_at desc) filter (where status <> 'events_shed'))[1],
    (array_agg(host order by seen_at desc) filter (where host is not null))[1],
    (array_agg(domain order by seen_at desc) filter (where domain is not null))[1],
    (array_agg(os order by seen_at desc) filter (where os is not null))[1],
    (array_agg(os_version order by seen_at desc) filter (where os_version is not null))[1],
    (array_agg(time_zone order by seen_at desc) filter (where time_zone is not null))[1],
    (array_agg(agent_version order by seen_at desc) filter (where agent_version is not null))[1],
    (array_agg(policy_version order by seen_at desc) filter (where policy_version is not null))[1],
    (array_agg(capabilities order by seen_at desc) filter (where capabilities is not null))[1],
    (array_agg(interval_s order by seen_at desc) filter (where interval_s is not null))[1],
    (array_agg(queue_rows order by seen_at desc) filter (where queue_rows is not null))[1],
    (array_agg(queue_bytes order by seen_at desc) filter (where queue_bytes is not null))[1],
    (array_agg(queue_limit_bytes order by seen_at desc) filter (where queue_limit_bytes is not null))[1],
    (array_agg(shed_total order by seen_at desc) filter (where shed_total is not null))[1],
    (array_agg(cpu_percent order by seen_at desc) filter (where cpu_percent is not null))[1],
    (array_agg(memory_bytes order by seen_at desc) filter (where memory_bytes is not null))[1]
from staged_agents
group by agent_id
order by agent_id
on conflict (agent_id) do update set
    seen_at = greatest(t.seen_at, excluded.seen_at),
    session = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.session, t.session) else coalesce(t.session, excluded.session) end,
    status = case when excluded.seen_at >= t.seen_at then coalesce(excluded.status, t.status) else t.status end,
    host = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.host, t.host) else coalesce(t.host, excluded.host) end,
    domain = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.domain, t.domain) else coalesce(t.domain, excluded.domain) end,
    os = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.os, t.os) else coalesce(t.os, excluded.os) end,
    os_version = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.os_version, t.os_version) else coalesce(t.os_version, excluded.os_version) end,
    time_zone = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.time_zone, t.time_zone) else coalesce(t.time_zone, excluded.time_zone) end,
    agent_version = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.agent_version, t.agent_version) else coalesce(t.agent_version, excluded.agent_version) end,
    policy_version = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.policy_version, t.policy_version)
        else coalesce(t.policy_version, excluded.policy_version) end,
    capabilities = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.capabilities, t.capabilities) else coalesce(t.capabilities, excluded.capabilities) end,
    interval_s = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.interval_s, t.interval_s) else coalesce(t.interval_s, excluded.interval_s) end,
    queue_rows = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.queue_rows, t.queue_rows) else coalesce(t.queue_rows, excluded.queue_rows) end,
    queue_bytes = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.queue_bytes, t.queue_bytes) else coalesce(t.queue_bytes, excluded.queue_bytes) end,
    queue_limit_bytes = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.queue_limit_bytes, t.queue_limit_bytes)
        else coalesce(t.queue_limit_bytes, excluded.queue_limit_bytes) end,
    shed_total = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.shed_total, t.shed_total) else coalesce(t.shed_total, excluded.shed_total) end,
    cpu_percent = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.cpu_percent, t.cpu_percent) else coalesce(t.cpu_percent, excluded.cpu_percent) end,
    memory_bytes = case when excluded.seen_at >= t.seen_at
        then coalesce(excluded.memory_bytes, t.memory_bytes) else coalesce(t.memory_bytes, excluded.memory_bytes) end
