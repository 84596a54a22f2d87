"""What drivers share: identity channel, listen addresses, port forwarding."""
