-- What people are to be told: written by the PostgreSQL sink in the transaction that stores the rows.
create table notification_outbox (
    id          bigint generated always as identity primary key,
    key         text not null unique,     -- of the finding's state or the program's start: told once
    kind        text not null,            -- alert, program_start
    change      text not null,            -- new, updated, closed
    severity_id integer not null,
    rule_id     text not null,
    title       text not null,
    agent_id    text not null,
    host        text,
    username    text,
    program     text,
    message     text not null,
    count       bigint not null,
    event_time  timestamptz not null,
    written_at  timestamptz not null default now(),
    routed_at   timestamptz               -- when a notifier dealt it to the channels
);
create index notification_outbox_unrouted on notification_outbox (id) where routed_at is null;
create index notification_outbox_by_age on notification_outbox (written_at);

-- Messages as they were composed: a repetition is the same message with the same id.
create table notification_messages (
    id           uuid primary key,
    channel      text not null,
    content      jsonb not null,
    items        integer not null,
    state        text not null default 'open' check (state in ('open', 'sent', 'failed')),
    attempts     integer not null default 0,
    lease        uuid,                     -- of the notifier that is sending it
    leased_until timestamptz,
    reason       text,                     -- why the last attempt came to nothing
    made_at      timestamptz not null default now(),
    done_at      timestamptz
);
create index notification_messages_open on notification_messages (channel, made_at) where state = 'open';
create index notification_messages_done on notification_messages (done_at) where state <> 'open';

-- Which channel tells what, and in which message it did.
create table notification_deliveries (
    channel     text not null,
    outbox_id   bigint not null references notification_outbox (id) on delete cascade,
    severity_id integer not null,
    message_id  uuid references notification_messages (id) on delete cascade,
    primary key (channel, outbox_id)
);
create index notification_deliveries_waiting on notification_deliveries (channel, severity_id desc, outbox_id)
    where message_id is null;
create index notification_deliveries_by_outbox on notification_deliveries (outbox_id);
create index notification_deliveries_by_message on notification_deliveries (message_id);

-- How often a channel has spoken, shared by all notifiers.
create table notification_channels (
    channel text primary key,
    pace    jsonb not null default '{}'
);
