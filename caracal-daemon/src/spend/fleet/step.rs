//! The script that adds charges to the view and moves the watermark. What a script has written stays when it fails, so it looks
//! at all that it will touch first.

/// The largest number of a view: far above any bill, and so far below Redis's largest (2^63 - 1) that the script's floating
/// point can tell the two apart.
pub(super) const MOST: u64 = 9_000_000_000_000_000_000;

/// `KEYS`: the watermarks, then buckets. `ARGV`: the log, where the watermark must be, where it goes, how many pairs follow of
/// a bucket and its end in Unix seconds; then a bucket, a field and what is added, over and over. Gives 1 when it is done, 0
/// when it was, -1 when the watermark is elsewhere, and the name of a key that holds something else.
pub(super) const STEP: &str = "\
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'hash' and kind ~= 'none' then return KEYS[i] end
end
local mark = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
if not mark then return KEYS[1] end
if mark >= tonumber(ARGV[3]) then return 0 end
if mark ~= tonumber(ARGV[2]) then return -1 end
local at = 5 + 2 * tonumber(ARGV[4])
for i = at, #ARGV, 3 do
  local key = KEYS[tonumber(ARGV[i])]
  local there = redis.call('HGET', key, ARGV[i + 1]) or '0'
  if not there:match('^%d+$') or tonumber(there) + tonumber(ARGV[i + 2]) > 9e18 then return key end
end
for i = at, #ARGV, 3 do redis.call('HINCRBY', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2]) end
for i = 5, at - 1, 2 do redis.call('EXPIREAT', KEYS[tonumber(ARGV[i])], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
";

/// What the script gave.
#[derive(Debug)]
pub(super) enum Done {
    /// Whether it went on, and why not.
    Code,
    /// This key holds something else.
    Foreign(String),
}

impl redis::FromRedisValue for Done {
    fn from_redis_value(value: redis::Value) -> Result<Done, redis::ParsingError> {
        if let redis::Value::Int(_) = value {
            return Ok(Done::Code);
        }
        String::from_redis_value(value).map(Done::Foreign)
    }
}
