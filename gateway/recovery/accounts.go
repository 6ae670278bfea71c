package recovery

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
)

// account is an account and the keys derived from its own.
type account struct {
	row  metadata.Account // the one that opens, else the latest
	keys *seal.AccountKeys
	err  error // why there are none

	found []accountRow
}

// accountRow is what one record says of an account, or the tables of the root.
type accountRow struct {
	row   metadata.Account
	rank  rank
	epoch uint64 // of the record
}

// rank says what counts more of what tells of one account.
type rank uint8

const (
	rankTables rank = iota // the newest tables of the root
	rankRecord
	rankOlder // older tables
)

// maxRows bounds how many different rows of one account, or bucket, are tried.
const maxRows = 64

// noteAccount takes a row of an account.
func (c *Collection) noteAccount(r accountRow) {
	a := c.accounts[r.row.ID]
	if a == nil {
		a = new(account)
		c.accounts[r.row.ID] = a
	}
	text := string(r.row.AppendTo(nil))
	for i := range a.found {
		if f := &a.found[i]; string(f.row.AppendTo(nil)) == text {
			f.rank, f.epoch = min(f.rank, r.rank), max(f.epoch, r.epoch)
			return
		}
	}
	if len(a.found) < maxRows {
		a.found = append(a.found, r)
	}
}

// openAccounts joins the accounts of the tables to those of the records, and
// unwraps their keys: by the latest row, or any other that opens.
func (c *Collection) openAccounts(ctx context.Context) error {
	if c.root != nil {
		for i := range c.root.Accounts {
			c.noteAccount(accountRow{row: c.root.Accounts[i], rank: rankTables})
		}
	}
	if len(c.accounts) == 0 {
		return ErrNothing
	}
	for id, a := range c.accounts {
		slices.SortStableFunc(a.found, func(x, y accountRow) int {
			return cmp.Or(cmp.Compare(x.rank, y.rank), cmp.Compare(y.epoch, x.epoch))
		})
		a.row = a.found[0].row
		for i := range a.found {
			row := &a.found[i].row
			key, err := c.o.Keys.UnwrapAccount(ctx, id, row.Key, row.MasterKey, []byte(row.WrappedKey))
			if err == nil {
				a.row, a.keys, a.err = *row, seal.DeriveAccount(key), nil
				break
			}
			c.o.Log.Error("key of an account does not open", "account", id.String(), "err", err)
			if a.err == nil {
				a.err = fmt.Errorf("key of account %s: %w", id, err)
			}
		}
		a.found = nil
	}
	return nil
}
