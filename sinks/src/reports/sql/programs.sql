-- Programs that were started most; of the fleet also those that nobody had started before.
select jsonb_build_object(
    'starts', (select count(*) from program_rows),
    'distinct', (select count(distinct process_name) from program_rows),
    'first_seen_starts', (select sum(first_seen_starts) from activity_hours),
    'suspicious_paths', (select sum(suspicious_paths) from activity_hours),
    'top', (
        select coalesce(jsonb_agg(program order by starts desc, name), '[]')
        from (
            select process_name as name, count(*) as starts, count(distinct agent_id) as agents,
                count(distinct username) as users
            from program_rows where process_name is not null group by process_name
            order by count(*) desc, process_name limit 15
        ) program
    ),
    'new', (
        select coalesce(jsonb_agg(program order by first_seen, name), '[]')
        from (
            select name, path, path_class, first_seen from programs
            where $3 = 'fleet' and first_seen >= $1 and first_seen < $2 and name is not null
            order by first_seen, name limit 15
        ) program
    )
)
