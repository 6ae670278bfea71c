package replica_test

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
)

// reproach is a leader's heartbeat that counts on what a store never had.
func reproach(to uint64) []replica.Message {
	return []replica.Message{{From: 1, To: to, Group: testBucket.Group, Raft: &pb.Message{
		Type: pb.MsgHeartbeat.Enum(), From: new(uint64(1)), To: new(to), Term: new(uint64(1)), Commit: new(uint64(1 << 40)),
	}}}
}

// retired reports whether the engine refuses to open a store that is marked.
func retired(t *testing.T, fs vfs.FS, id uint64) bool {
	t.Helper()
	s, err := replica.OpenStore("meta", storeOptions(fs, id))
	if err == nil {
		err = s.Close()
	}
	if err != nil && !errors.Is(err, commandlog.ErrRetired) {
		t.Error(err)
	}
	return err != nil
}

// TestForgetfulStoreOnADeviceThatHangs: a store that has forgotten what it had
// promised runs no more, although it cannot be marked; and it is marked once
// its device answers.
func TestForgetfulStoreOnADeviceThatHangs(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	mem, g := ps[2].FS, newGate()
	ps[2].FS = errorfs.Wrap(mem, g)
	net := newReceivers()
	o := engineOptions()
	o.Transport = net
	failed := make(chan error, 10)
	o.OnFailure = func(err error) { failed <- err }
	e, err := replica.OpenReplicated(ps, o)
	if err != nil {
		t.Fatal(err)
	}
	prepareReplicated(t, e)
	mustPut(t, e, 1)
	everywhere(t, e)

	g.shut.Store(true)
	net.of(3).Receive(reproach(3))
	var forgotten *replica.ForgottenError
	waitFor(t, "the store to have stopped", func() bool { return errors.As(e.Status(t.Context())[2].Err, &forgotten) })
	mustPut(t, e, 2)
	if len(failed) != 0 {
		t.Errorf("OnFailure while a quorum is left: %v", <-failed)
	}

	net.of(2).Receive(reproach(2)) // and no quorum is left
	if err := <-failed; !errors.As(err, &forgotten) || forgotten.Replica != 2 {
		t.Errorf("OnFailure: %v", err)
	}
	g.release()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if !retired(t, mem, 3) {
		t.Error("the store can be opened again")
	}
}

// TestStoreIsRetiredBeforeTheProcessMayEnd takes, when OnFailure is called, what
// a loss of power would leave of stores that have forgotten their promises.
func TestStoreIsRetiredBeforeTheProcessMayEnd(t *testing.T) {
	t.Parallel()
	ps := places(t, 3)
	last := ps[2].FS.(*vfs.MemFS)
	net := newReceivers()
	o := engineOptions()
	o.Transport = net
	left := make(chan vfs.FS, 10)
	o.OnFailure = func(error) { left <- last.CrashClone(vfs.CrashCloneCfg{}) }
	e := openReplicated(t, ps, o)
	prepareReplicated(t, e)

	net.of(2).Receive(reproach(2))
	var forgotten *replica.ForgottenError
	waitFor(t, "a store to have stopped", func() bool { return errors.As(e.Status(t.Context())[1].Err, &forgotten) })
	net.of(3).Receive(reproach(3))
	if !retired(t, <-left, 3) {
		t.Error("the store can be opened again")
	}
}
