package agent_test

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/sandlot-dev/sandlot/gen/envd/filesystem"
	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// TestOwner makes files as another user than the agent's.
func TestOwner(t *testing.T) {
	testreq.Root(t)
	const user = "daemon" // uid and gid 1 on every Linux
	a := startAgent(t)
	dir := t.TempDir()
	authorization := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"))

	req := connect.NewRequest(&pb.MakeDirRequest{Path: filepath.Join(dir, "made/deep")})
	req.Header().Set("Authorization", authorization)
	res, err := a.fs.MakeDir(t.Context(), req)
	must(t, err)
	if e := res.Msg.GetEntry(); e.GetOwner() != user || e.GetGroup() != user {
		t.Errorf("made for %s:%s", e.GetOwner(), e.GetGroup())
	}
	for path, header := range map[string][]string{
		filesURL(dir+"/query/f") + "&username=" + user: nil,
		filesURL(dir + "/header/f"):                    {"Authorization", authorization},
		filesURL(dir + "/root/f"):                      nil,
	} {
		status, _, body := a.do(t, http.MethodPost, path, "x", append(header, "Content-Type", octets)...)
		if status != http.StatusOK {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	old := write(t, filepath.Join(dir, "query/old"), "", 0o750|os.ModeSetuid)
	a.do(t, http.MethodPost, filesURL(old)+"&username="+user, "x", "Content-Type", octets)
	for name, uid := range map[string]uint32{
		"made": 1, "made/deep": 1, "query": 1, "query/f": 1, "query/old": 1, "header": 1, "header/f": 1, "root": 0, "root/f": 0,
	} {
		var st syscall.Stat_t
		must(t, syscall.Stat(filepath.Join(dir, name), &st))
		if st.Uid != uid || st.Gid != uid {
			t.Errorf("%s belongs to %d:%d, want %d", name, st.Uid, st.Gid, uid)
		}
	}
	if info, err := os.Stat(old); err != nil || info.Mode() != 0o750 {
		t.Errorf("mode of the replaced file: %v, %v; new content is not to run as its owner", info, err)
	}
}
