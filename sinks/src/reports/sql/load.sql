-- Load of the machines: means over hours; the busiest ten.
select jsonb_build_object(
    'cpu_mean', avg(cpu_mean),
    'cpu_max', max(cpu_max),
    'cpu_over_share', avg(cpu_over_share),
    'mem_used_mean_bytes', avg(mem_used_mean_bytes),
    'mem_used_max_bytes', max(mem_used_max_bytes),
    'mem_over_share', avg(mem_over_share),
    'disk_used_max_percent', max(disk_used_max_percent),
    'net_rx_mean_bytes_per_s', avg(net_rx_mean_bytes_per_s),
    'net_tx_mean_bytes_per_s', avg(net_tx_mean_bytes_per_s),
    'machines', (
        select coalesce(jsonb_agg(machine order by machine.cpu_mean desc nulls last, agent_id), '[]')
        from (
            select agent_id, max(host) as host, count(*) as hours, avg(cpu_mean) as cpu_mean, max(cpu_max) as cpu_max,
                max(mem_used_max_bytes) as mem_used_max_bytes, max(disk_used_max_percent) as disk_used_max_percent
            from machine_hours group by agent_id
            order by avg(cpu_mean) desc nulls last, agent_id limit 10
        ) machine
    )
)
from machine_hours
