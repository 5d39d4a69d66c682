-- How long to wait before try p_try (from 1): doubles from p_base up to p_cap, then anywhere in its upper half, so that
-- what failed together does not come back together.
create function relayforge.backoff(p_base interval, p_cap interval, p_try integer)
returns interval
language sql volatile parallel safe
as $$
  select least(p_cap, p_base * power(2, least(greatest(p_try, 1) - 1, 30))) * (0.5 + random() / 2)
$$;
comment on function relayforge.backoff is 'Exponential back-off with jitter: half to whole of base * 2^(try - 1), at most the cap.';
