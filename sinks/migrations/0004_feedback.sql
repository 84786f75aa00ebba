-- What people say about alerts; the newest of an author about an alert holds. An alert need not be here yet.
create table if not exists alert_feedback (
    alert_id   text not null,
    author     text not null,
    verdict    text not null check (verdict in ('tp', 'fp', 'benign')),
    verdict_id integer,
    note       text,
    given_at   timestamptz not null,
    stored_at  timestamptz not null default now(),
    primary key (alert_id, author)
);
