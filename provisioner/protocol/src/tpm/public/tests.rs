//! Public areas as real and simulated chips write them, and those that are no node keys.

use super::*;

fn point(template: Template, size: usize) -> Vec<u8> {
    [template.prefix(), &sized(&vec![1; size]), &sized(&vec![2; size])].concat()
}

fn rsa(first: u8, last: u8, len: usize) -> Vec<u8> {
    let mut modulus = vec![7; len];
    (modulus[0], modulus[len - 1]) = (first, last);
    [EK_RSA_2048, &sized(&modulus)].concat()
}

#[test]
fn short_coordinates_are_padded_and_long_ones_refused() {
    let template = Template::Endorsement(EkKind::P256);
    let full = Ek::parse(&point(template, 32)).unwrap();
    let short = [template.prefix(), &sized(&[1; 31]), &sized(&[2; 32])].concat();
    let padded = Ek::parse(&short).unwrap();
    assert_eq!(padded.spki().len(), full.spki().len());
    assert_eq!(padded.spki()[27..29], [0, 1]);
    assert!(Ek::parse(&point(template, 33)).is_err());
    assert!(Ek::parse(&point(template, 0)).is_err());
}

#[test]
fn public_areas_cut_or_lengthened_anywhere_are_refused() {
    let ecc =
        [(EkKind::P256, 32), (EkKind::P384, 48)].map(|(kind, size)| point(Template::Endorsement(kind), size));
    for good in
        ecc.into_iter().chain([rsa(0x80, 1, 256), point(Template::NodeKey, 32), point(Template::Storage, 32)])
    {
        assert_eq!(Public::parse(&good).unwrap().as_bytes(), good);
        for len in 0..good.len() {
            assert!(Public::parse(&good[..len]).is_err());
        }
        assert!(Public::parse(&[&good[..], &[0]].concat()).is_err());
    }
}

#[test]
fn r28_ek_is_a_template_byte_for_byte() {
    let good = point(Template::Endorsement(EkKind::P256), 32);
    for place in 0..EK_P256.len() {
        let mut bad = good.clone();
        bad[place] ^= 1;
        assert!(Ek::parse(&bad).is_err(), "byte {place}");
    }
    assert!(Ek::parse(&point(Template::NodeKey, 32)).is_err());
    for (first, last, len) in [(0x7f, 1, 256), (0x80, 2, 256), (0x80, 1, 255), (0x80, 1, 384)] {
        assert!(Ek::parse(&rsa(first, last, len)).is_err());
    }
}

#[test]
fn r27a_attributes_are_exactly_those_of_a_key_made_in_the_tpm() {
    let good = point(Template::NodeKey, 32);
    assert!(Public::node_key(&good).is_ok());
    for bit in 0..32 {
        let mut bad = good.clone();
        bad[4 + bit / 8] ^= 0x80 >> (bit % 8);
        assert_eq!(Public::node_key(&bad), Err(NotInTpm::Attributes), "bit {bit}");
    }
    assert_eq!(Public::node_key(&[]), Err(NotInTpm::Attributes));
}

#[test]
fn r27c_scheme_is_ecdsa_on_p256_with_sha256() {
    let good = point(Template::NodeKey, 32);
    for place in (0..NODE_KEY.len()).filter(|place| !ATTRIBUTES.contains(place)) {
        let mut bad = good.clone();
        bad[place] ^= 1;
        assert_eq!(Public::node_key(&bad), Err(NotInTpm::Scheme), "byte {place}");
    }
}

#[test]
fn rsa_spki_is_rsa_encryption_with_null_and_65537() {
    let spki = Ek::parse(&rsa(0x80, 1, 256)).unwrap().spki();
    let (rest, read) =
        <x509_parser::x509::SubjectPublicKeyInfo<'_> as x509_parser::prelude::FromDer<_>>::from_der(&spki)
            .unwrap();
    assert!(rest.is_empty());
    assert_eq!(read.algorithm.algorithm.to_id_string(), "1.2.840.113549.1.1.1");
    let x509_parser::public_key::PublicKey::RSA(key) = read.parsed().unwrap() else { panic!("no RSA key") };
    assert_eq!((key.key_size(), key.try_exponent()), (2048, Ok(65_537)));
}
