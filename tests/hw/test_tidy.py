"""Wires that nothing reads, in the form that yosys gives them."""

from sinai.hw.tidy import tidy

TEXT = """\
module \\top.first (a, b, y);
  input a;
  wire a;
  input [1:0] b;
  wire [1:0] b;
  output y;
  wire y;
  (* of_interest = 32'd1 *)
  wire [1:0] alias;
  wire \\$1 ;
  wire chain;
  wire \\odd.name ;
  wire w;
  wire signed [3:0] h5;
  wire [-1:0] \no.bits ;
  leaf inner (
    .w(\\odd.name )
  );
  assign \\$1  = a & b[0];
  assign y = \\$1 ;
  assign alias = b;
  assign w = chain;
  assign chain = b[1];
  assign h5 = 4'h5;
endmodule
module second(alias);
  output alias;
  wire alias;
  assign alias = 1'h0;
endmodule
"""


def test_only_unread_wires_go():
    """alias, h5 and w are read by none, chain by w alone, no.bits is
    only declared; .w( and 4'h5 are not mentions.

    Ports stay, although `alias` is one in the other module, and so do names with a backslash.
    """
    gone = {
        "  (* of_interest = 32'd1 *)",
        "  wire [1:0] alias;",
        "  assign alias = b;",
        "  wire chain;",
        "  assign chain = b[1];",
        "  wire w;",
        "  assign w = chain;",
        "  wire signed [3:0] h5;",
        "  wire [-1:0] \\no.bits ;",
        "  assign h5 = 4'h5;",
    }
    expected = [line for line in TEXT.splitlines() if line not in gone]
    assert tidy(TEXT).splitlines() == expected
    assert tidy(tidy(TEXT)) == tidy(TEXT)
