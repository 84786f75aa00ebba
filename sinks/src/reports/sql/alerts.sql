-- Findings that were complete in the period, as they stand now, and what people said of them.
select jsonb_build_object(
    'findings', (select count(*) from alert_rows),
    'rows', (select coalesce(sum(count), 0) from alert_rows),
    'open', (select count(*) from alert_rows where status_id <> 4),
    'by_severity', (
        select coalesce(jsonb_agg(level order by severity_id desc), '[]')
        from (select severity_id, severity, count(*) as findings from alert_rows group by severity_id, severity) level
    ),
    'by_rule', (
        select coalesce(jsonb_agg(rule order by severity_id desc, findings desc, rule_id), '[]')
        from (
            select rule_id, max(rule_title) as title, max(severity_id) as severity_id,
                (array_agg(severity order by severity_id desc))[1] as severity, count(*) as findings
            from alert_rows group by rule_id
            order by max(severity_id) desc, count(*) desc, rule_id limit 15
        ) rule
    ),
    'verdicts', (
        select jsonb_build_object(
            'tp', count(*) filter (where verdict = 'tp'),
            'fp', count(*) filter (where verdict = 'fp'),
            'benign', count(*) filter (where verdict = 'benign'))
        from (
            select distinct on (alert_id) verdict
            from alert_feedback join alert_rows on alert_id = finding_uid
            order by alert_id, given_at desc
        ) newest
    ),
    'worst', (
        select coalesce(jsonb_agg(finding order by severity_id desc, event_time desc, finding_uid), '[]')
        from (
            select finding_uid, event_time, severity_id, severity, rule_id, host, username, message
            from alert_rows order by severity_id desc, event_time desc, finding_uid limit 10
        ) finding
    )
)
