-- Hold a request for which there is no replica, until there is one. A process that has just started or been
-- reloaded has found none yet, which takes it up to a second; so does the successor of an only replica.
-- After PATIENCE the request goes on, and is told that there is none.

local PATIENCE = 3 -- seconds
local INTERVAL = 20 -- milliseconds

core.register_action("wait_for_a_replica", { "http-req" }, function(txn)
    for _ = 1, PATIENCE * 1000 / INTERVAL do
        if tonumber(txn.f:nbsrv("service")) > 0 then
            return
        end
        core.msleep(INTERVAL)
    end
end)
