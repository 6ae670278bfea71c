package admin_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/ruche-storage/ruche/gateway/admin"
)

// TestJudge shows what operators are told. A script sets fields of a status:
//
//	judge parity=2 may-lose=2 writable
//	----
func TestJudge(t *testing.T) {
	t.Parallel()
	datadriven.RunTest(t, "testdata/judge", func(t *testing.T, d *datadriven.TestData) string {
		if d.Cmd != "judge" {
			d.Fatalf(t, "unknown command %s", d.Cmd)
		}
		s := &admin.Status{Encryption: !d.HasArg("plain")}
		c := admin.Circumstances{KeyringVerified: !d.HasArg("unverified"), StateDir: "/state",
			MetadataFull: d.HasArg("metadata-full"), OnDriveLossRefuses: d.HasArg("refuse")}
		number := func(name string) (n int64) {
			d.MaybeScanArgs(t, name, &n)
			return n
		}
		s.Safety = admin.Safety{
			Parity: int(number("parity")), MayLose: int(number("may-lose")), Away: int(number("away")),
			ShortChunks: number("short"), Unrepairable: number("unrepairable"), BackInSeconds: admin.Seconds(number("back")),
			Writable: d.HasArg("writable"),
		}
		s.Repair.CollectionOff = d.HasArg("collection-off")
		var cause string
		d.MaybeScanArgs(t, "cause", &cause)
		s.Repair.OffCause = admin.OffCause(cause)
		s.Metadata = metadataOf(t, d)
		for _, state := range []admin.DriveState{admin.DriveAbsent, admin.DriveFenced, admin.DriveFull, admin.DriveSlow} {
			if d.HasArg(string(state)) {
				s.Drives = append(s.Drives, admin.Drive{Path: "/srv/d1", State: state, Reason: "the reason"})
			}
		}
		if s.Metadata.Healthy < s.Metadata.Quorum {
			admin.JudgeUnserved(s, c.StateDir)
		} else {
			admin.Judge(s, c)
		}
		var out strings.Builder
		fmt.Fprintln(&out, s.Health)
		for _, line := range s.Summary {
			fmt.Fprintln(&out, line)
		}
		for _, w := range s.Warnings {
			fmt.Fprintf(&out, "! %s: %s\n  %s\n", w.Code, w.Text, w.Remedy)
		}
		return out.String()
	})
}

// metadataOf are the copies that a script names by how they are:
//
//	copies=(ok,ok,absent) devices=3
//
// Without them there are three that are well.
func metadataOf(t *testing.T, d *datadriven.TestData) admin.Metadata {
	m := admin.Metadata{Engine: admin.EngineReplicated, Groups: 17, Devices: 3}
	if d.HasArg("one-copy") {
		m.Engine = admin.EngineLocal
	}
	d.MaybeScanArgs(t, "devices", &m.Devices)
	d.MaybeScanArgs(t, "leaderless", &m.Leaderless)
	how := []string{"ok", "ok", "ok"}
	for _, arg := range d.CmdArgs {
		if arg.Key == "copies" {
			how = arg.Vals
		}
	}
	for i, h := range how {
		c := admin.CopyState{Replica: uint64(i + 1), Path: fmt.Sprintf("/srv/d%d/meta", i+1), Drive: "x", Device: fmt.Sprint(i), Role: admin.CopyVoter, Health: admin.CopyHealth(h)}
		if h == "learner" {
			c.Role, c.Health = admin.CopyLearner, admin.CopyBehind
		}
		if h == "leaving" {
			c.Role, c.StillVotes, c.Health = admin.CopyLeaving, true, admin.CopyOK
		}
		if d.HasArg("one-device") {
			c.Device = "a"
		}
		if !c.Well() {
			c.Reason = "the reason"
		}
		m.Stores = append(m.Stores, c)
	}
	m.Count()
	return m
}
