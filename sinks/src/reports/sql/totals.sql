-- The numbers that are compared with the week before.
select jsonb_build_object(
    'active_s', (select sum(active_s) from activity_hours),
    'work_load', (select sum(active_s) / (3600 * count(*)) from activity_hours where active_s > 0),
    'cpu_mean', (select avg(cpu_mean) from machine_hours),
    'mem_used_mean_bytes', (select avg(mem_used_mean_bytes) from machine_hours),
    'starts', (select nullif(count(*), 0) from program_rows),
    'alerts', (select nullif(count(*), 0) from alert_rows),
    'coverage', (select avg(coverage) from machine_hours),
    'hours', (select nullif(count(*), 0) from machine_hours)
)
