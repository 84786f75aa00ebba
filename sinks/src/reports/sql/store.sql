insert into reports as t (kind, period_start, scope, key, zone, body, computed_at)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (kind, period_start, scope, key) do update set
    zone = excluded.zone, body = excluded.body, computed_at = excluded.computed_at
where excluded.computed_at >= t.computed_at
