-- Activity and work load. Work load: seconds with input divided by the length of the hours in which there was any.
select jsonb_build_object(
    'active_s', sum(active_s),
    'active_hours', count(*) filter (where active_s > 0),
    'hours', count(*),
    'work_load', sum(active_s) / nullif(3600 * count(*) filter (where active_s > 0), 0),
    'days', count(distinct (window_start at time zone $5)::date) filter (where active_s > 0),
    'first_hour', to_char(min(window_start at time zone $5) filter (where active_s > 0), 'YYYY-MM-DD HH24:MI'),
    'last_hour', to_char(max(window_start at time zone $5) filter (where active_s > 0), 'YYYY-MM-DD HH24:MI'),
    'idle_runs', sum(idle_runs),
    'mouse_events', sum(mouse_events),
    'keyboard_events', sum(keyboard_events),
    'users', (
        select coalesce(jsonb_agg(of_user order by of_user.active_s desc nulls last, username), '[]')
        from (
            select username, sum(active_s) as active_s, count(*) filter (where active_s > 0) as active_hours,
                sum(active_s) / nullif(3600 * count(*) filter (where active_s > 0), 0) as work_load,
                count(distinct agent_id) as agents
            from user_hours group by username
            order by sum(active_s) desc nulls last, username limit 10
        ) of_user
    )
)
from activity_hours
