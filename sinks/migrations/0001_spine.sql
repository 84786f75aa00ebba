-- Program starts as the specification asks for them: exactly these columns.
create table program_starts (
    id           uuid primary key,      -- from the event's identity: a repeat is the same row
    "timestamp"  timestamptz not null,
    username     text,
    process_name text,
    agent_id     text not null
);
create index program_starts_by_time on program_starts ("timestamp");
create index program_starts_by_agent on program_starts (agent_id, "timestamp");

-- Every machine that ever reported, with the newest that it said about itself.
create table agents (
    agent_id          text primary key,
    seen_at           timestamptz not null, -- event time of the newest report
    session           bigint,
    status            text,                 -- event type of the newest report
    host              text,
    domain            text,
    os                text,
    os_version        text,
    time_zone         text,
    agent_version     text,
    policy_version    text,
    capabilities      jsonb,
    interval_s        double precision,
    queue_rows        bigint,
    queue_bytes       bigint,
    queue_limit_bytes bigint,
    shed_total        bigint,
    cpu_percent       double precision,
    memory_bytes      bigint
);

-- One row a window; a later revision replaces an earlier one.
create table features_1m (
    agent_id            text not null,
    window_start        timestamptz not null,
    window_end          timestamptz not null,
    host                text,
    revision            integer not null,
    is_partial          boolean not null,
    samples             bigint not null,
    cpu_samples         bigint not null,
    cpu_mean            double precision,
    cpu_min             double precision,
    cpu_max             double precision,
    mem_used_mean_bytes double precision,
    mem_used_max_bytes  bigint,
    primary key (agent_id, window_start)
);
create index features_1m_by_time on features_1m (window_start);

create table alerts (
    finding_uid  text primary key,
    rule_id      text not null,
    rule_title   text not null,
    rule_set     text not null,
    kind         text not null,
    severity_id  integer not null,
    severity     text not null,
    status_id    integer not null,
    status       text not null,
    activity_id  integer not null,
    class_uid    integer not null,
    type_uid     bigint not null,
    agent_id     text not null,
    session      bigint not null,
    lane         text not null,
    seq          bigint not null,
    event_id     text,
    host         text,
    username     text,
    event_time   timestamptz not null,
    first_seen   timestamptz not null,
    last_seen    timestamptz not null,
    count        bigint not null,
    window_start timestamptz,
    window_end   timestamptz,
    message      text not null,
    attacks      jsonb,
    evidence     jsonb not null,
    labels       jsonb,
    stored_at    timestamptz not null default now()
);
create index alerts_by_time on alerts (event_time);
create index alerts_by_agent on alerts (agent_id, event_time);

-- How far each sink has come. Moved by compare-and-set in the transaction that stores the rows.
create table offsets (
    sink        text not null,
    topic       text not null,
    partition   integer not null,
    next_offset bigint not null,
    moved_at    timestamptz not null default now(),
    primary key (sink, topic, partition)
);
