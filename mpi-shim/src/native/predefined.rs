//! The predefined handles: in Open MPI, addresses of variables of the native library.

use mpi_sys::{MPI_Comm, MPI_Datatype, MPI_Errhandler, MPI_Group, MPI_Op, MPI_Request};

use super::{Handle, NotFound};

/// The predefined handles that the shim has to know.
pub struct Predefined {
    /// `MPI_COMM_WORLD`
    pub comm_world: MPI_Comm,
    /// `MPI_COMM_SELF`
    pub comm_self: MPI_Comm,
    /// `MPI_COMM_NULL`
    pub comm_null: MPI_Comm,
    /// `MPI_GROUP_EMPTY`
    pub group_empty: MPI_Group,
    /// `MPI_GROUP_NULL`
    pub group_null: MPI_Group,
    /// `MPI_REQUEST_NULL`
    pub request_null: MPI_Request,
    /// `MPI_ERRORS_ARE_FATAL`
    pub errors_are_fatal: MPI_Errhandler,
    /// `MPI_ERRORS_RETURN`
    pub errors_return: MPI_Errhandler,
    /// `MPI_ERRHANDLER_NULL`
    pub errhandler_null: MPI_Errhandler,
    /// `MPI_DATATYPE_NULL`
    pub datatype_null: MPI_Datatype,
    /// `MPI_BYTE`
    pub byte: MPI_Datatype,
    /// `MPI_OP_NULL`
    pub op_null: MPI_Op,
}

// SAFETY: handles are compared and passed on, never followed here.
unsafe impl Send for Predefined {}
// SAFETY: as above.
unsafe impl Sync for Predefined {}

impl Predefined {
    pub(super) fn find(library: &Handle) -> Result<Predefined, NotFound> {
        let address = |name| library.variable(name);
        Ok(Predefined {
            comm_world: MPI_Comm(address("ompi_mpi_comm_world")?.cast()),
            comm_self: MPI_Comm(address("ompi_mpi_comm_self")?.cast()),
            comm_null: MPI_Comm(address("ompi_mpi_comm_null")?.cast()),
            group_empty: MPI_Group(address("ompi_mpi_group_empty")?.cast()),
            group_null: MPI_Group(address("ompi_mpi_group_null")?.cast()),
            request_null: MPI_Request(address("ompi_request_null")?.cast()),
            errors_are_fatal: MPI_Errhandler(address("ompi_mpi_errors_are_fatal")?.cast()),
            errors_return: MPI_Errhandler(address("ompi_mpi_errors_return")?.cast()),
            errhandler_null: MPI_Errhandler(address("ompi_mpi_errhandler_null")?.cast()),
            datatype_null: MPI_Datatype(address("ompi_mpi_datatype_null")?.cast()),
            byte: MPI_Datatype(address("ompi_mpi_byte")?.cast()),
            op_null: MPI_Op(address("ompi_mpi_op_null")?.cast()),
        })
    }
}

/// A datatype's handle that is kept.
#[derive(Clone, Copy, Debug)]
pub struct TypeHandle(MPI_Datatype);

// SAFETY: the native library was initialised for threads; a handle may be used from any of them.
unsafe impl Send for TypeHandle {}
// SAFETY: as above.
unsafe impl Sync for TypeHandle {}

impl TypeHandle {
    /// Keeps it.
    pub fn new(handle: MPI_Datatype) -> TypeHandle {
        TypeHandle(handle)
    }

    /// The handle.
    pub fn get(self) -> MPI_Datatype {
        self.0
    }
}
