package replica

import (
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"
)

// raftLogger passes on what Raft finds worth a warning. What Raft cannot go on
// from is a panic, which stops the store.
type raftLogger struct{ log *slog.Logger }

var _ raft.Logger = raftLogger{}

func (raftLogger) Debug(...any)          {}
func (raftLogger) Debugf(string, ...any) {}
func (raftLogger) Info(...any)           {}
func (raftLogger) Infof(string, ...any)  {}

func (l raftLogger) Warning(v ...any) { l.log.Debug("raft", "msg", fmt.Sprint(v...)) }
func (l raftLogger) Warningf(format string, v ...any) {
	l.log.Debug("raft", "msg", fmt.Sprintf(format, v...))
}
func (l raftLogger) Error(v ...any) { l.log.Warn("raft", "msg", fmt.Sprint(v...)) }
func (l raftLogger) Errorf(format string, v ...any) {
	l.log.Warn("raft", "msg", fmt.Sprintf(format, v...))
}
func (raftLogger) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (raftLogger) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (raftLogger) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (raftLogger) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
