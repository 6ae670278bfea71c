package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ruche-storage/ruche/gateway/admin"
)

func (a *app) keyCommand() *cobra.Command {
	return group("key", "Create, list and delete access keys", "  ruche key create --description \"backup of host1\"",
		a.keyCreateCommand(), a.keyListCommand(), a.keyDeleteCommand())
}

func (a *app) keyCreateCommand() *cobra.Command {
	var req admin.CreateKeyRequest
	c := &cobra.Command{
		Use:   "create",
		Short: "Create an access key and print its secret, once",
		Example: `  ruche key create --description "backup of host1"
  ruche key create --id MYACCESSKEY`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			k, err := client.CreateKey(cmd.Context(), &req)
			if err != nil {
				return err
			}
			return a.show(k, func() string {
				return fmt.Sprintf("access key  %s\nsecret key  %s\nThe secret is not shown again.\n", k.ID, k.Secret)
			})
		},
	}
	c.Flags().StringVar(&req.ID, "id", "", "access key to use instead of a generated one")
	c.Flags().StringVar(&req.Description, "description", "", "what the key is for")
	return a.adminFlags(c)
}

func (a *app) keyListCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the access keys", Example: "  ruche key list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			keys, err := client.Keys(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(keys, func() string {
				var rows [][]string
				for _, k := range keys {
					created := instant(k.Created)
					if k.Root {
						created = "root"
					}
					rows = append(rows, []string{k.ID, created, k.Description})
				}
				return a.table([]string{"ACCESS KEY", "CREATED", "DESCRIPTION"}, rows)
			})
		},
	}
	return a.adminFlags(c)
}

func (a *app) keyDeleteCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "delete ACCESS-KEY", Short: "Delete an access key; it stops working at once",
		Example: "  ruche key delete RUCHEABCDEFGHIJKLMNO", Args: needs("ACCESS-KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if err := client.DeleteKey(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.show(map[string]string{"deleted": args[0]}, func() string { return "deleted " + args[0] + "\n" })
		},
	}
	return a.adminFlags(c)
}

func (a *app) bucketCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List buckets with their settings and what they hold", Example: "  ruche bucket list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			buckets, err := client.Buckets(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(buckets, func() string { return a.bucketsTable(buckets) })
		},
	}
	var compression string
	set := &cobra.Command{
		Use:   "set NAME",
		Short: "Change the settings of a bucket",
		Long: `Changes the settings of a bucket. Compression counts for objects written from
then on: zstd makes most things smaller, s2 costs less processor time, off is
right for what is compressed already.`,
		Example: "  ruche bucket set logs --compression zstd",
		Args:    needs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("compression") {
				return &usageError{fmt.Errorf("nothing to set; give --compression zstd, s2 or off")}
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			b, err := client.SetBucket(cmd.Context(), args[0], &admin.SetBucketRequest{Compression: &compression})
			if err != nil {
				return err
			}
			return a.show(b, func() string { return a.bucketsTable([]admin.Bucket{*b}) })
		},
	}
	set.Flags().StringVar(&compression, "compression", "", "zstd, s2 or off")
	return group("bucket", "List buckets and change their settings", "  ruche bucket list", a.adminFlags(list), a.adminFlags(set))
}

func (a *app) bucketsTable(buckets []admin.Bucket) string {
	var rows [][]string
	for _, b := range buckets {
		rows = append(rows, []string{b.Name, b.Compression, count(b.Usage.Objects), size(b.Usage.LogicalBytes), size(b.Usage.StoredBytes), instant(b.Created)})
	}
	return a.table([]string{"BUCKET", "COMPRESSION", "OBJECTS", "SIZE", "STORED", "CREATED"}, rows, 2, 3, 4)
}
