package admin_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/gateway/admin"
)

func TestBackupIsStreamed(t *testing.T) {
	t.Parallel()
	const repeat = 1 << 18
	f := &fake{repeat: repeat}
	s := start(t, f, nil)
	var b bytes.Buffer
	n, err := client(s, "root", "secret").BackupMetadata(t.Context(), &b)
	if err != nil || n != int64(b.Len()) || b.String() != strings.Repeat("metadata", repeat) {
		t.Errorf("BackupMetadata = %d bytes, %v; got %d", n, err, b.Len())
	}
	if _, err := client(s, "root", "wrong").BackupMetadata(t.Context(), &b); !errors.Is(err, &admin.Error{Code: admin.CodeDenied}) {
		t.Errorf("with a wrong secret: %v", err)
	}
	if len(f.asked) != 1 {
		t.Errorf("asked %v", f.asked)
	}
}

// TestBrokenBackup lets a backup fail before and after its first byte: the
// client never takes what it has for a backup.
func TestBrokenBackup(t *testing.T) {
	t.Parallel()
	busy := &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: "another is being written"}
	f := &fake{err: busy}
	s := start(t, f, nil)
	var b bytes.Buffer
	_, err := client(s, "root", "secret").BackupMetadata(t.Context(), &b)
	if got, ok := errors.AsType[*admin.Error](err); !ok || *got != *busy || b.Len() > 0 {
		t.Errorf("before its first byte: %v, %d bytes", err, b.Len())
	}
	for _, repeat := range []int{1, 1 << 18} {
		f := &fake{repeat: repeat, late: errors.New("disk on fire")}
		_, err := client(start(t, f, nil), "root", "secret").BackupMetadata(t.Context(), &b)
		if err == nil || !strings.Contains(err.Error(), "try again") {
			t.Errorf("after %d bytes: %v", 8*repeat, err)
		}
	}
}
