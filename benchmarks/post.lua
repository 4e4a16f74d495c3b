-- Posts the bodies of a file, in order and over again:
--
--     wrk ... -s post.lua URL -- CONTENT_TYPE FILE
--
-- Every request carries the headers that wrk was given with -H, too.
-- FILE holds the bodies one after the other, each behind a line with its length in bytes. The last line of the output
-- is a JSON object with the counts and, in microseconds, the duration and the latencies.

local function read_bodies(path)
  local file, bodies = assert(io.open(path, "rb")), {}
  for length in function() return file:read("*l") end do
    bodies[#bodies + 1] = file:read(tonumber(length))
  end
  file:close()
  return bodies
end

function init(args)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = args[1]
  local bodies = read_bodies(args[2])
  wrk.body = bodies[1]
  if #bodies > 1 then
    local requests, last = {}, 0
    for i, body in ipairs(bodies) do
      requests[i] = wrk.format(nil, nil, nil, body)
    end
    -- Defined only where it is needed: without it wrk sends one prepared request and takes less CPU.
    function request()
      last = last % #requests + 1
      return requests[last]
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  local fields = {
    requests = summary.requests,
    duration_us = summary.duration,
    errors_status = errors.status,
    errors_connect = errors.connect,
    errors_read = errors.read,
    errors_write = errors.write,
    errors_timeout = errors.timeout,
    p50_us = latency:percentile(50),
    p95_us = latency:percentile(95),
    p99_us = latency:percentile(99),
  }
  local members = {}
  for name, value in pairs(fields) do
    members[#members + 1] = string.format("%q: %.0f", name, value)
  end
  io.write("{" .. table.concat(members, ", ") .. "}\n")
end
