-- From when to when a period ($1 day or week, $2 its first day, $3 zone), the same a week before, and the eight weeks
-- of the long-term pattern that end with it.
select
    $2::date::timestamp at time zone $3,
    ($2::date + days)::timestamp at time zone $3,
    ($2::date - 7)::timestamp at time zone $3,
    ($2::date - 7 + days)::timestamp at time zone $3,
    ($2::date + days - 56)::timestamp at time zone $3,
    now()
from (select case $1 when 'week' then 7 else 1 end as days) length
