// Names below localhost mean this machine. Browsers know that; Node asks the
// system, and where neither systemd-resolved nor nss-myhostname is in use the
// system does not know it. Loaded with --require, this stands for them; the SDK
// stays as it is.
const dns = require('node:dns')

const system = dns.lookup
dns.lookup = (name, options, done) => {
  const callback = done ?? options
  if (!/(^|\.)localhost$/.test(name)) return system(name, options, done)
  if (done && options?.all) return process.nextTick(callback, null, [{ address: '127.0.0.1', family: 4 }])
  return process.nextTick(callback, null, '127.0.0.1', 4)
}
