-- Stands before each section. What a report is about, from $1 to before $2: $3 is `fleet`, `agent` or `user`, $4 the
-- agent's id or the user's name, $5 the zone in which days and hours are told, $6 the step of the series (`hour`, `day`).
-- A user's machine hours are those of the machines on which he was seen in that hour.
with machine_hours as (
    select * from features_1h h
    where window_start >= $1 and window_start < $2 and case $3
        when 'fleet' then true
        when 'agent' then agent_id = $4
        else exists (
            select from user_features_1h u
            where u.username = $4 and u.agent_id = h.agent_id and u.window_start = h.window_start)
    end
),
user_hours as (
    select * from user_features_1h
    where window_start >= $1 and window_start < $2 and case $3
        when 'fleet' then true
        when 'agent' then agent_id = $4
        else username = $4
    end
),
activity_hours as (
    select agent_id, window_start, active_s, idle_runs, mouse_events, keyboard_events, first_seen_starts,
        suspicious_paths
    from machine_hours where $3 <> 'user'
    union all
    select agent_id, window_start, active_s, idle_runs, mouse_events, keyboard_events, first_seen_starts,
        suspicious_paths
    from user_hours where $3 = 'user'
),
program_rows as (
    select * from program_starts
    where "timestamp" >= $1 and "timestamp" < $2 and case $3
        when 'fleet' then true
        when 'agent' then agent_id = $4
        else username = $4
    end
),
alert_rows as (
    select * from alerts
    where event_time >= $1 and event_time < $2 and case $3
        when 'fleet' then true
        when 'agent' then agent_id = $4
        else username = $4
    end
)
