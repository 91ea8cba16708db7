package netns

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// legacyTables lists the tables of the old iptables that are in use in this
// network namespace; their policies are out of nftables' sight.
const legacyTables = "/proc/net/ip_tables_names"

// ForwardBlocked reports whether another firewall of the host drops forwarded
// packets unless a rule of its own lets them pass, as Docker and ufw arrange
// it, and names its chain. Sandboxes then have no network until such a rule is
// added: a packet has to pass every firewall, so the server's own table cannot
// help. With false the text may be a note on what could not be looked at, else
// it is empty. It needs root and changes nothing.
func ForwardBlocked() (blocked bool, text string) {
	chain, err := droppingChain()
	if err != nil {
		return false, "cannot look at the host's firewall: " + err.Error()
	}
	if chain != "" {
		return true, chain + " drops forwarded packets by default"
	}
	names, err := os.ReadFile(legacyTables)
	if err == nil && slices.Contains(strings.Fields(string(names)), "filter") {
		return false, "the legacy iptables has a filter table; if sandboxes have no network, look at the policy of its chain FORWARD"
	}
	return false, ""
}

// droppingChain names the first chain of IPv4's forward hook whose policy is to
// drop.
func droppingChain() (string, error) {
	conn, err := nftables.New()
	if err != nil {
		return "", err
	}
	for family, name := range map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet"} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return "", err
		}
		for _, c := range chains {
			forward := c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward
			if forward && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
				return fmt.Sprintf("chain %s of nftables table %s %s", c.Name, name, c.Table.Name), nil
			}
		}
	}
	return "", nil
}
