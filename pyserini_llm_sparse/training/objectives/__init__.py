"""What training optimises: ranking losses, regularisers, next-token losses; and the signs of a collapse."""
