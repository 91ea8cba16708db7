package netns

import (
	"strings"
	"testing"

	"github.com/google/nftables"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

func TestForwardBlocked(t *testing.T) {
	testreq.Root(t)
	openNetwork(t, nil) // its own chains do not count
	if blocked, text := ForwardBlocked(); blocked {
		t.Errorf("blocked without a firewall: %s", text)
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyINet} {
		conn, err := nftables.New()
		must(t, err)
		table := conn.AddTable(&nftables.Table{Family: family, Name: "filter"})
		for policy, want := range map[nftables.ChainPolicy]bool{nftables.ChainPolicyAccept: false, nftables.ChainPolicyDrop: true} {
			conn.AddChain(&nftables.Chain{
				Table: table, Name: "FORWARD", Type: nftables.ChainTypeFilter,
				Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy,
			})
			must(t, conn.Flush())
			if got, text := ForwardBlocked(); got != want || (want && !strings.Contains(text, "chain FORWARD of nftables table i")) {
				t.Errorf("policy %d: blocked %v, %q", policy, got, text)
			}
		}
		conn.DelTable(table)
		must(t, conn.Flush())
	}
}
