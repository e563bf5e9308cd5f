"""What Redis does in one call: divides each limit of each caller among the gateways that use it, for a few seconds.

Every gateway has a lease of each limit: how much it may use by itself. It says what it uses and how much it wants; it
gets at most its fair share of all that is wanted (max-min), and never what others hold. What it uses already it keeps,
also above its share, so that the leases of all never add up to more than the limit. A lease that is not renewed
is over when it expires, which gives back what a gateway held that is gone.

The text is Lua, run by Redis as a whole (atomically), with Redis' own clock.
"""

# Of each limit of each caller: how much there is in all, what is used here, what is wanted here.
NUMBERS = 3
LIMITS = 3
# KEYS: the gateways, then a hash for each caller. ARGV: this gateway, how long a lease holds in milliseconds, then
# LIMITS times NUMBERS for each caller; a limit of 0 is none. Returns how many gateways there are, then LIMITS
# leases for each caller.
SCRIPT = """
local me, lease_ms = ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + lease_ms, me)
redis.call('PEXPIRE', KEYS[1], lease_ms)
local result = {redis.call('ZCARD', KEYS[1])}

local function level(limit, wants)
  table.sort(wants)
  local left, count = limit, #wants
  for _, want in ipairs(wants) do
    if want * count > left then return math.ceil(left / count) end
    left, count = left - want, count - 1
  end
  return limit
end

for k = 2, #KEYS do
  local held, wants = {0, 0, 0}, {{}, {}, {}}
  local all = redis.call('HGETALL', KEYS[k])
  for i = 1, #all, 2 do
    local expires, h1, w1, h2, w2, h3, w3 = string.match(all[i + 1], '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
    if not expires or tonumber(expires) <= now then
      redis.call('HDEL', KEYS[k], all[i])
    elseif all[i] ~= me then
      for l, pair in ipairs({{h1, w1}, {h2, w2}, {h3, w3}}) do
        held[l] = held[l] + tonumber(pair[1])
        table.insert(wants[l], tonumber(pair[2]))
      end
    end
  end
  local mine = {string.format('%.0f', now + lease_ms)}
  for l = 1, 3 do
    local at = 2 + (k - 2) * 9 + (l - 1) * 3
    local limit, used, want = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    local grant = 0
    if limit > 0 then
      table.insert(wants[l], want)
      grant = math.max(0, math.min(want, level(limit, wants[l]), limit - held[l]))
    end
    table.insert(result, grant)
    table.insert(mine, string.format('%.0f', math.max(grant, used)))
    table.insert(mine, string.format('%.0f', want))
  end
  redis.call('HSET', KEYS[k], me, table.concat(mine, ' '))
  redis.call('PEXPIRE', KEYS[k], lease_ms)
end
return result
"""
