package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/cmd/ruche/server"
)

func (a *app) recoverCommand() *cobra.Command {
	var fromManifests, ended bool
	c := &cobra.Command{
		Use:   "recover",
		Short: "Make lost metadata anew from the drives (offline)",
		Long: `Makes the metadata of a stopped server anew from what its drives carry, after the
state directory was lost: buckets, objects, access keys and placement as they
were some seconds before. If the keyring is lost, too, it asks for the recovery
code. Settings are those of "ruche serve". Nothing is deleted, and metadata that
exist are left alone. The exit code is 1 if something is missing.`,
		Example: `  ruche recover --data /var/lib/ruche --drives /srv/d{1...6}`,
		Args:    cobra.NoArgs,
	}
	config.AddFlags(c.Flags())
	c.SetFlagErrorFunc(nearestFlag)
	c.Flags().BoolVar(&fromManifests, "from-manifests", false, "recover although the drives carry copies of the metadata")
	c.Flags().BoolVar(&ended, "include-ended", false, "also take what a restored backup or a forced start had given up")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		settings, err := a.settings(cmd)
		if err != nil {
			return err
		}
		report, err := a.recover(cmd.Context(), server.RecoverOptions{
			Config: settings, Now: a.now, Code: a.recoveryCode, FromManifests: fromManifests, Ended: ended,
			Log: slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
		if err != nil {
			return err
		}
		if err := a.show(report, func() string { return a.recovered(report) }); err != nil {
			return err
		}
		if !report.Complete {
			return incomplete(report)
		}
		return nil
	}
	return c
}

// incomplete words what a recovery means that may not have brought back
// everything.
func incomplete(r *server.RecoverReport) error {
	if r.Lost+r.Unopened > 0 || len(r.UnknownBucket)+len(r.Renamed) > 0 || !r.Tables {
		return errors.New("something is missing; see above")
	}
	return errors.New("something may be missing: more drives are missing or damaged than may be lost at a time; " +
		"if there are others, mount them, move the metadata away and recover again before you start the server")
}

// recover runs a recovery and shows its progress.
func (a *app) recover(ctx context.Context, o server.RecoverOptions) (*server.RecoverReport, error) {
	var mu sync.Mutex // guards at and ended
	at, ended := step{total: 1000}, false
	began := make(chan struct{}) // closed when there is something to show
	begin := sync.OnceFunc(func() { close(began) })
	o.Progress = func(thousandths int) {
		mu.Lock()
		at.done = int64(thousandths)
		mu.Unlock()
		begin()
	}
	var report *server.RecoverReport
	var err error
	var work sync.WaitGroup
	work.Go(func() {
		defer begin()
		report, err = server.Recover(ctx, o)
		mu.Lock()
		defer mu.Unlock()
		ended = true
	})
	<-began // until then it may ask for the recovery code
	// The end of ctx ends the work, which is waited for.
	showErr := a.follow(context.WithoutCancel(ctx), "recover", func(context.Context) (step, error) {
		mu.Lock()
		defer mu.Unlock()
		if at.finished = ended; ended && err != nil {
			return at, err // which is not the end of all that was to be done
		}
		return at, nil
	})
	work.Wait()
	if err != nil {
		return report, err
	}
	return report, showErr
}

// takenOver words the report of a recovery that found the metadata.
func takenOver(r *server.RecoverReport) string {
	var out strings.Builder
	fmt.Fprintf(&out, "A majority of the copies of the metadata is on the drives; they were taken over, and nothing is lost:\n  %s\n", strings.Join(r.Copies, "\n  "))
	if len(r.LostCopies) > 0 {
		fmt.Fprintf(&out, "Copies that are not there were given up:\n  %s\n", strings.Join(r.LostCopies, "\n  "))
	}
	for _, d := range r.MissingDrives {
		fmt.Fprintf(&out, "drive %s is missing\n", d)
	}
	if r.Credentials != "" {
		fmt.Fprintln(&out, "New credentials of root are in "+r.Credentials)
	}
	fmt.Fprint(&out, `
What comes next:
  1. start the server
  2. put new drives in the places of lost ones: ruche drive replace PATH
  3. have as many copies of the metadata as before: ruche metadata add auto --wait
`)
	return out.String()
}

// recovered words the report of a recovery.
func (a *app) recovered(r *server.RecoverReport) string {
	if len(r.Copies) > 0 {
		return takenOver(r)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "recovered %s, %s of %s and %s; the newest change is of %s\n\n",
		things(int64(len(r.Buckets)), "bucket"), things(r.Objects, "object"), size(r.Bytes), things(int64(r.AccessKeys), "access key"), instant(r.Newest))
	rows := make([][]string, 0, len(r.Buckets))
	for _, b := range r.Buckets {
		rows = append(rows, []string{b.Name, count(b.Objects), size(b.Bytes), count(b.Lost)})
	}
	out.WriteString(a.table([]string{"BUCKET", "OBJECTS", "SIZE", "LOST"}, rows, 1, 2, 3))
	a.gaps(&out, r)
	fmt.Fprintln(&out, "\nUploads that were in progress are gone: clients begin them anew.")
	if r.Credentials != "" {
		fmt.Fprintln(&out, "New credentials of root are in "+r.Credentials)
	}
	fmt.Fprint(&out, `
What comes next:
  1. start the server, and check what it serves
  2. put new drives in the places of lost ones: ruche drive replace PATH
  3. nothing is freed until you confirm that all is there: ruche repair resume-collection
`)
	return out.String()
}

// gaps words what is missing.
func (a *app) gaps(out *strings.Builder, r *server.RecoverReport) {
	if len(r.MissingDrives)+len(r.DamagedDrives)+len(r.LostVersions)+len(r.UnknownBucket)+len(r.Renamed) > 0 || r.Unopened+r.Ended > 0 || !r.Tables {
		fmt.Fprintln(out)
	}
	for _, d := range r.MissingDrives {
		fmt.Fprintf(out, "drive %s is missing\n", d)
	}
	for _, d := range r.DamagedDrives {
		fmt.Fprintf(out, "drive %s: %s\n", d.Path, d.Reason)
	}
	if !r.Tables {
		fmt.Fprintln(out, "no drive has the root tables: all access keys are lost; the placement was read off the shards")
	}
	for _, l := range r.LostVersions {
		fmt.Fprintf(out, "lost: %s/%s of %s: %s\n", l.Bucket, l.Key, instant(l.Modified), l.Reason)
	}
	if more := r.Lost - int64(len(r.LostVersions)); more > 0 {
		fmt.Fprintf(out, "lost: %s more\n", count(more))
	}
	if r.Unopened > 0 {
		fmt.Fprintf(out, "%s of manifests of known buckets do not open\n", things(r.Unopened, "record"))
	}
	if r.Ended > 0 {
		fmt.Fprintf(out, "%s left out: older metadata were restored, or forced, since; --include-ended takes them\n", things(r.Ended, "manifest"))
	}
	for _, u := range r.UnknownBucket {
		fmt.Fprintf(out, "bucket %s is not restored, %s of manifests: %s\n", u.Bucket, things(u.Batches, "record"), u.Reason)
	}
	for _, n := range r.Renamed {
		fmt.Fprintf(out, "bucket %s is now %s: another has its name\n", n.Was, n.Now)
	}
}
