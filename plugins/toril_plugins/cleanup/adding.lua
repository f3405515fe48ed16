-- A job whose id is still taken by one that a rule removed is not added.
if not ctx.meta('toril.idwindow.ms') then return end
if redis.call('EXISTS', ctx.own('taken:@' .. ctx.id)) == 1 then ctx.duplicate() end
