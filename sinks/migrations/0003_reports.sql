-- What reports are made of, and the reports.

-- One row an hour of a machine; a later revision replaces an earlier one. Of the columns of the record those that
-- people ask for over months; all of them are in the lake, and in InfluxDB.
create table features_1h (
    agent_id            text not null,
    window_start        timestamptz not null,
    window_end          timestamptz not null,
    host                text,
    revision            integer not null,
    is_partial          boolean not null,
    events              bigint,
    reports_expected    double precision,
    reports_received    bigint,
    coverage            double precision,
    late                bigint,
    lost                bigint,
    samples             bigint not null,
    cpu_mean            double precision,
    cpu_max             double precision,
    cpu_over_share      double precision,
    load_mean           double precision,
    load_max            double precision,
    mem_used_mean_bytes double precision,
    mem_used_max_bytes  bigint,
    mem_over_share      double precision,
    disk_used_max_percent double precision,
    net_rx_mean_bytes_per_s double precision,
    net_tx_mean_bytes_per_s double precision,
    starts              bigint,
    first_seen_starts   bigint,
    suspicious_paths    bigint,
    activity_reports    bigint,
    active_s            double precision,
    idle_runs           bigint,
    mouse_events        bigint,
    keyboard_events     bigint,
    changed_at          timestamptz not null default now(),
    primary key (agent_id, window_start)
);
create index features_1h_by_time on features_1h (window_start);

-- One row an hour of a user on a machine.
create table user_features_1h (
    agent_id          text not null,
    username          text not null,
    window_start      timestamptz not null,
    window_end        timestamptz not null,
    host              text,
    revision          integer not null,
    is_partial        boolean not null,
    coverage          double precision,
    starts            bigint,
    first_seen_starts bigint,
    suspicious_paths  bigint,
    activity_reports  bigint,
    active_s          double precision,
    idle_runs         bigint,
    mouse_events      bigint,
    keyboard_events   bigint,
    changed_at        timestamptz not null default now(),
    primary key (agent_id, username, window_start)
);
create index user_features_1h_by_time on user_features_1h (window_start);
create index user_features_1h_by_user on user_features_1h (username, window_start);

-- Activity per day, in UTC. A view: a sum kept beside its parts would have to follow every revision of them.
create view activity_days as
select
    agent_id,
    username,
    (window_start at time zone 'UTC')::date as day,
    sum(active_s) as active_s,
    count(*) filter (where active_s > 0) as active_hours,
    count(*) as hours,
    sum(starts) as starts,
    sum(mouse_events) as mouse_events,
    sum(keyboard_events) as keyboard_events,
    avg(coverage) as coverage,
    bool_or(is_partial) as is_partial
from user_features_1h
group by agent_id, username, (window_start at time zone 'UTC')::date;

-- Who was ever seen. Times are event times.
create table users (
    username   text primary key,
    first_seen timestamptz not null,
    last_seen  timestamptz not null
);

-- Which programs were ever started, by name and path.
create table programs (
    id         uuid primary key,    -- of name and path: these may be longer than an index takes
    name       text,
    path       text,
    path_class text,
    first_seen timestamptz not null,
    last_seen  timestamptz not null
);
create index programs_by_name on programs (left(name, 200));

-- How a finding stands is said by its highest revision, not by its times: what closes it may have neither a new
-- row nor a new time.
alter table alerts
    add column if not exists revision integer not null default 0,
    add column if not exists status_detail text,
    add column if not exists suppressed bigint;

-- What people say about alerts; the newest of an author about an alert holds. An alert need not be here yet.
create table alert_feedback (
    alert_id   text not null,
    author     text not null,
    verdict    text not null check (verdict in ('tp', 'fp', 'benign')),
    verdict_id integer,
    note       text,
    given_at   timestamptz not null,
    stored_at  timestamptz not null default now(),
    primary key (alert_id, author)
);

-- Computed from the tables above; computing again replaces. `body` holds all sections.
create table reports (
    kind         text not null check (kind in ('day', 'week')),
    period_start date not null,
    scope        text not null check (scope in ('fleet', 'agent', 'user')),
    key          text not null,     -- of an agent or a user; '' for the fleet
    zone         text not null,     -- in which days begin
    body         jsonb not null,
    computed_at  timestamptz not null,
    primary key (kind, period_start, scope, key)
);
create index reports_by_key on reports (scope, key, kind, period_start);
