-- The numbers that are compared with the week before. That nothing was started or found is known only where machines
-- were heard.
, heard as (select count(*) > 0 as is_any from machine_hours)
select jsonb_build_object(
    'active_s', (select sum(active_s) from activity_hours),
    'work_load', (select sum(active_s) / (3600 * count(*)) from activity_hours where active_s > 0),
    'cpu_mean', (select avg(cpu_mean) from machine_hours),
    'mem_used_mean_bytes', (select avg(mem_used_mean_bytes) from machine_hours),
    'starts', (select case when is_any or n > 0 then n end from heard, (select count(*) as n from program_rows) c),
    'alerts', (select case when is_any or n > 0 then n end from heard, (select count(*) as n from alert_rows) c),
    'coverage', (select avg(coverage) from machine_hours),
    'hours', (select nullif(count(*), 0) from machine_hours)
)
