"""The objectives of training: ranking losses, regularisers and next-token losses; and the signs of a collapse."""
