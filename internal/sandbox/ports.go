package sandbox

// AgentPort is the port number that means a sandbox's agent. Requests for it
// never reach a TCP port.
const AgentPort = 49983

// PortPlaceholder stands for the port in the Host header that a client chose for
// the servers in its sandbox.
const PortPlaceholder = "${PORT}"
