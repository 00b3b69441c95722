// Looks names up with Go's own resolver, which reads resolv.conf and asks by itself: addresses, and a TXT record.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
)

func main() {
	resolver := &net.Resolver{PreferGo: true}
	for _, name := range os.Args[1:] {
		addresses, err := resolver.LookupIP(context.Background(), "ip4", name)
		if err != nil {
			fmt.Println(name, err)
		}
		for _, address := range addresses {
			fmt.Println(name, address)
		}
		texts, _ := resolver.LookupTXT(context.Background(), name)
		fmt.Println(name, "TXT", len(texts))
	}
}
