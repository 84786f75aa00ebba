-- First and last time of each program; the class as it was last told.
insert into programs as t
select id, min(name), min(path),
    (array_agg(path_class order by last_seen desc) filter (where path_class is not null))[1],
    min(first_seen), max(last_seen)
from staged_programs
group by id
order by id
on conflict (id) do update set
    path_class = case when excluded.last_seen >= t.last_seen
        then coalesce(excluded.path_class, t.path_class) else coalesce(t.path_class, excluded.path_class) end,
    first_seen = least(t.first_seen, excluded.first_seen),
    last_seen = greatest(t.last_seen, excluded.last_seen)
where excluded.first_seen < t.first_seen or excluded.last_seen > t.last_seen
