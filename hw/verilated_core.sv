// A core whose inputs change at the rising edge of `drive` alone.
//
// What depends on an input of the top module is computed anew in every call of the model, twice a
// cycle; and on `rst` almost everything depends. Behind these registers it is computed when an
// input has changed, which a long compute does not see. The driver raises `drive` well before `clk`.

module sinai_bench #(parameter WORD = 32) (
  input clk,
  input drive,
  input rst,
  input host_valid,
  input host_write,
  input [15:0] host_address,
  input [31:0] host_write_data,
  output host_ready,
  output host_read_valid,
  output [31:0] host_read_data,
  input in_valid,
  output in_ready,
  input [WORD-1:0] in_data,
  output out_valid,
  input out_ready,
  output [WORD-1:0] out_data,
  output monitor_running,
  output monitor_issue,
  output [3:0] monitor_cause,
  output monitor_begin,
  output monitor_end,
  output monitor_exact,
  output monitor_done,
  output monitor_transfer
);
  reg rst_now, host_valid_now, host_write_now, in_valid_now, out_ready_now;
  reg [15:0] host_address_now;
  reg [31:0] host_write_data_now;
  reg [WORD-1:0] in_data_now;

  always @(posedge drive) begin
    rst_now <= rst;
    host_valid_now <= host_valid;
    host_write_now <= host_write;
    host_address_now <= host_address;
    host_write_data_now <= host_write_data;
    in_valid_now <= in_valid;
    in_data_now <= in_data;
    out_ready_now <= out_ready;
  end

  `CORE core (
    .rst(rst_now),
    .host_valid(host_valid_now),
    .host_write(host_write_now),
    .host_address(host_address_now),
    .host_write_data(host_write_data_now),
    .in_valid(in_valid_now),
    .in_data(in_data_now),
    .out_ready(out_ready_now),
    .*
  );
endmodule
