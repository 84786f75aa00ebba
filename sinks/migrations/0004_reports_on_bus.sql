-- Which version of a report the broker has acknowledged: `computed_at` of what was published. A report that is computed
-- again differs from it, and is published again.
alter table reports add column on_bus timestamptz;
create index reports_not_on_bus on reports (period_start) where on_bus is distinct from computed_at;
