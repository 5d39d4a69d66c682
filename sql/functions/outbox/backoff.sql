-- How long to wait before try p_try (from 1): doubles from p_base up to p_cap; the share p_jitter of that is left to chance,
-- so that what failed together does not come back together.
create function relayforge.backoff(p_base interval, p_cap interval, p_try integer, p_jitter double precision default 0.5)
returns interval
language sql volatile parallel safe
as $$
  select least(p_cap, p_base * power(2, least(greatest(p_try, 1) - 1, 30))) * (1 - p_jitter + p_jitter * random())
$$;
comment on function relayforge.backoff is 'Exponential back-off with jitter: base * 2^(try - 1), at most the cap, less up to the share jitter of it.';
